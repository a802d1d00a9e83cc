"""The service in this process: answers, limits, batching, attacks."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image
from serve.conftest import CLASSES, png
from torch.testing import assert_close
from torchvision.transforms.functional import to_tensor

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient

from ironclip.serve.app import create_app
from ironclip.serve.batching import Batcher
from ironclip.serve.decoder import Upload, pixels
from ironclip.serve.limits import Busy, Limits
from ironclip.serve.model import DEFENDED


@contextmanager
def client(model, token=None, **limits):
    app = create_app(model, Limits(**limits), token=token)
    with TestClient(app, base_url="http://127.0.0.1") as made:
        yield made


def form(*pictures: bytes):
    return [("images", (f"{number}.png", picture, "image/png")) for number, picture in enumerate(pictures)]


def expected(model, picture: bytes, which: str = DEFENDED) -> torch.Tensor:
    image = to_tensor(pixels(Upload("x", picture), model.resolution, Limits().max_pixels))
    with torch.no_grad():
        return model.functions[which](image[None]).softmax(1)[0]


def test_answers_are_the_models_probabilities_best_first(model):
    with client(model) as http:
        answer = http.post("/classify?top=9&compare=true", files=form(png(1), png(2)))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["image"] for result in results] == ["0.png", "1.png"]
    for result, seed in zip(results, (1, 2), strict=True):
        for key, which in (("predictions", "defended"), ("undefended", "undefended")):
            wanted = expected(model, png(seed), which)
            shown = [entry["probability"] for entry in result[key]]
            assert shown == sorted(shown, reverse=True)
            assert_close(torch.tensor(shown), wanted.sort(descending=True).values)
            assert result[key][0]["class"] == CLASSES[int(wanted.argmax())]


def test_batched_answers_equal_those_one_by_one(model):
    pictures = [png(seed) for seed in range(24)]
    answers = []
    for batch in (1, 16):
        with client(model, max_batch=batch, max_wait=0.05) as http, ThreadPoolExecutor(12) as pool:
            got = list(pool.map(lambda picture: http.post("/classify?top=3", files=form(picture)).json(), pictures))
            text = http.get("/metrics").text
        calls = float(next(line.split()[1] for line in text.splitlines() if line.startswith("ironclip_batches_total ")))
        assert calls == 24 if batch == 1 else calls < 24
        answers.append([{e["class"]: e["probability"] for e in answer["results"][0]["predictions"]} for answer in got])
    for alone, together in zip(*answers, strict=True):
        assert alone == pytest.approx(together, abs=1e-5)


class Slow:
    """A model that waits until it may go on, and writes down what it saw."""

    def __init__(self) -> None:
        self.go, self.seen, self.largest = threading.Event(), 0, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert self.go.wait(20)
        self.seen += len(images)
        self.largest = max(self.largest, len(images))
        return images.flatten(1).sum(1, keepdim=True) * torch.tensor([[1.0, 0.5, -1.0]])


def test_overload_is_refused_at_once_and_nothing_accepted_is_lost(model):
    slow = Slow()
    with client(replace(model, functions={DEFENDED: slow}), max_queue=4, max_batch=2, max_wait=0) as http:
        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(http.post, "/classify", files=form(png(seed))) for seed in range(40)]
            deadline = time.monotonic() + 20
            while sum(future.done() for future in asked) < 36 and time.monotonic() < deadline:
                time.sleep(0.01)
            refused = [future.result() for future in asked if future.done()]
            slow.go.set()
            answers = [future.result() for future in asked]
        text = http.get("/metrics").text
    assert len(refused) == 36, "only as many as may be under way were kept waiting"
    assert {answer.status_code for answer in refused} == {503}
    assert all(answer.headers["retry-after"] == "1" and "again" in answer.json()["error"] for answer in refused)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 36
    assert slow.seen == 4
    assert slow.largest <= 2
    assert "ironclip_accepted_images_total 4.0\n" in text
    assert "ironclip_answered_images_total 4.0\n" in text
    assert 'ironclip_requests_total{path="/classify",status="503"} 36' in text


def test_the_queue_is_bounded_and_takes_all_images_of_a_request_or_none():
    slow = Slow()
    batcher = Batcher({"m": slow}, max_batch=2, max_wait=0, max_queue=3)
    image = torch.rand(3, 4, 4)
    first = batcher.submit([("m", image)])  # taken by the worker
    while batcher.waiting:
        time.sleep(0.001)
    kept = batcher.submit([("m", image)] * 2)
    with pytest.raises(Busy, match="2 images wait and at most 3 may"):
        batcher.submit([("m", image)] * 2)
    kept += batcher.submit([("m", image)])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    slow.go.set()
    closing.join(20)
    assert [future.result(0).shape for future in first + kept] == [(3,)] * 4, "what was accepted is answered before the end"
    with pytest.raises(Busy, match="shutting down"):
        batcher.submit([("m", image)])


def test_an_image_that_breaks_the_model_does_not_break_its_neighbours():
    def picky(images):
        if (images > 2).any():
            raise ValueError("too bright")
        return torch.where(images.flatten(1)[:, :2] < 0, torch.nan, images.flatten(1)[:, :2])

    batcher = Batcher({"m": picky}, max_batch=8, max_wait=0.2, max_queue=8)
    fine, broken, nan = (torch.full((3, 2, 2), value) for value in (0.5, 3.0, -1.0))
    good, bad, also, none = batcher.submit([("m", fine), ("m", broken), ("m", fine), ("m", nan)])
    assert_close(good.result(9), torch.tensor([0.5, 0.5]))
    assert_close(also.result(9), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="too bright"):
        bad.result(9)
    with pytest.raises(ArithmeticError, match="NaN"):
        none.result(9)
    batcher.close()


def test_a_request_that_waits_too_long_is_told_so_and_the_service_goes_on(model):
    slow = Slow()
    with client(replace(model, functions={DEFENDED: slow}), seconds=0.3) as http:
        answer = http.post("/classify", files=form(png()))
        assert (answer.status_code, answer.json()["error"]) == (503, "no answer within 0.3 s; ask again later")
        slow.go.set()
        assert http.post("/classify", files=form(png())).status_code == 200


def test_the_token_guards_all_but_the_page_and_the_pulse(model):
    with client(model, token="secret") as http:
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz"):
            assert http.get(path).status_code == 200
        for path, headers in (("/model", {}), ("/metrics", {"Authorization": "Bearer wrong"}), ("/classify", {}), ("/none", {})):
            answer = http.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert http.post("/attack", files=form(png())).status_code == 401
        assert http.get("/model", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_other_sites_and_other_names_are_refused(model):
    with client(model) as http:
        assert http.get("/model", headers={"Origin": "https://example.org"}).status_code == 403
        assert http.get("/model", headers={"Origin": "null"}).status_code == 403
        assert http.get("/model", headers={"Host": "evil.example"}).status_code == 400
        for host in ("localhost:8000", "[::1]:8000"):
            assert http.get("/model", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_the_model_describes_itself(model):
    with client(model) as http:
        facts = http.get("/model").json()
        health = http.get("/healthz").json()
    assert facts["classes"] == list(CLASSES)
    assert facts["models"] == ["defended", "undefended"]
    assert facts["limits"]["max_batch"] == 32
    assert facts["examples"][0]["class"] == "cat"
    assert facts["examples"][0]["picture"].startswith("data:image/png;base64,")
    assert health == {"status": "ok", "waiting": 0}


def test_pages_need_nothing_from_elsewhere(model):
    with client(model) as http:
        for path in ("/", "/docs"):
            page = http.get(path)
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert "http://" not in page.text.replace("http://www.w3.org", "")
            assert "https://" not in page.text
        assert "<script>alert" not in http.get("/?text=<script>alert(1)</script>").text


def events(answer) -> list[dict]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("name", ["pgd", "apgd", "fgsm", "cw", "mim", "square"])
def test_an_attack_ends_with_pictures_and_both_models_before_and_after(model, name):
    with client(model) as http:
        *progress, result = events(http.post(f"/attack?attack={name}&eps=8/255&steps=6", files={"images": ("a.png", png(5))}))
    assert all(event["event"] == "progress" for event in progress)
    assert result["event"] == "result"
    assert result["eps"] == "8/255"
    for when in ("before", "after"):
        for which in ("defended", "undefended"):
            assert sum(result[when][which]) == pytest.approx(1, abs=1e-5)
    assert_close(torch.tensor(result["before"]["defended"]), expected(model, png(5)))
    assert result["label"] == CLASSES[int(expected(model, png(5)).argmax())]
    clean, adv = (_levels(result[key]) for key in ("clean", "adversarial"))
    assert 0 < (adv - clean).abs().max() <= 8
    adv_probabilities = torch.tensor(result["after"]["defended"])
    with torch.no_grad():
        assert_close(model.functions[DEFENDED](adv[None].float() / 255).softmax(1)[0], adv_probabilities)
    truth = CLASSES.index(result["label"])
    assert result["fooled"]["defended"] == (int(adv_probabilities.argmax()) != truth)
    (clean_map, adv_map) = result["attention"]["defended"]
    assert len(clean_map) == len(adv_map[0]) == 4
    assert max(map(max, clean_map)) == 1


@pytest.mark.parametrize("name", ["pgd", "fgsm", "square"])
def test_an_attack_keeps_to_the_ball_of_the_norm_that_was_asked_for(model, name):
    with client(model) as http:
        path = f"/attack?attack={name}&norm=l2&eps=200/255&steps=6"
        result = events(http.post(path, files={"images": ("a.png", png(5))}))[-1]
    assert (result["norm"], result["eps"], result["rounded"]) == ("l2", "200/255", True)
    clean, adv = (_levels(result[key]) for key in ("clean", "adversarial"))
    moved = float((adv - clean).float().norm())
    assert 100 < moved <= 200 + 1e-3
    assert float(result["distance"]) == pytest.approx(moved / 255, abs=1e-3)  # l2 lengths are written as decimals
    assert 1 < (adv - clean).abs().max() < 200


def _levels(uri: str) -> torch.Tensor:
    import base64

    import numpy as np

    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).int()


def test_an_attack_lowers_the_probability_of_the_true_class_of_its_target(model):
    with client(model) as http:
        for target in ("defended", "undefended"):
            path = f"/attack?attack=pgd&eps=16/255&steps=20&target={target}&label=dog"
            result = events(http.post(path, files={"images": ("a.png", png(5))}))[-1]
            assert result["after"][target][1] < result["before"][target][1]
            assert result["label"] == "dog"


def test_an_attack_that_takes_too_long_is_stopped_and_says_so(model):
    with client(model, attack_seconds=0.05) as http:
        path = "/attack?attack=square&steps=1000&eps=0.1/255"
        *_, last = events(http.post(path, files={"images": ("a.png", png(5))}))
        assert last["event"] == "error"
        assert "stopped after 0.05 s" in last["error"]
        assert http.get("/healthz").status_code == 200
        assert 'ironclip_attacks_total{ended="stopped"} 1' in http.get("/metrics").text


def test_who_has_read_the_last_event_finds_the_place_free_and_the_attack_counted(model):
    with client(model, max_attacks=1) as http:
        for number in range(1, 21):
            *_, last = events(http.post("/attack?steps=1", files={"images": ("a.png", png(5))}))
            assert last["event"] == "result"
            assert f'ironclip_attacks_total{{ended="done"}} {number}.0\n' in http.get("/metrics").text


def test_too_many_attacks_are_refused(model):
    slow = Slow()
    functions = {DEFENDED: slow, "undefended": slow}
    with client(replace(model, functions=functions), max_attacks=2) as http, ThreadPoolExecutor(6) as pool:
        http.app.state.service.twin = lambda: replace(model, functions=functions)
        asked = [pool.submit(http.post, "/attack?steps=1", files={"images": ("a.png", png())}) for _ in range(6)]
        deadline = time.monotonic() + 20
        while sum(future.done() for future in asked) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        slow.go.set()
        statuses = sorted(future.result().status_code for future in asked)
    assert statuses == [200, 200, 503, 503, 503, 503]


def test_attacks_leave_the_served_model_alone(model):
    before = expected(model, png(1))
    with client(model) as http:
        events(http.post("/attack?steps=3", files={"images": ("a.png", png(5))}))
        assert_close(expected(model, png(1)), before, rtol=0, atol=0)
        twin = http.app.state.service.twin()
    for name, function in model.functions.items():
        assert twin.functions[name].backbone is not function.backbone, "towers swap weights during a call"
    assert twin.functions["defended"].backbone is twin.functions["undefended"].backbone
