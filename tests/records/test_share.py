"""Which batches a shard takes: together all of them, each once."""

import pytest

from ironclip.core.errors import UsageError
from ironclip.records.share import Shard, Share


@pytest.mark.parametrize(("images", "size", "of"), [(48, 8, 3), (50, 8, 3), (7, 2, 4), (1, 100, 1), (100, 7, 15)])
def test_the_shards_of_an_evaluation_take_each_of_its_batches_once(images, size, of):
    whole = [range(start, min(start + size, images)) for start in range(0, images, size)]
    taken = [Shard(number, of).rows(images, size) for number in range(1, of + 1)]
    assert sorted((rows for part in taken for rows in part), key=lambda rows: rows.start) == whole
    assert taken[0] == whole[::of]
    assert all(taken), "no shard is empty"


def test_a_share_is_one_shard_or_any():
    assert Share.parse("3/8").shards(8, None) == (Shard(3, 8),)
    assert Share.parse("any/8").shards(100, None) == tuple(Shard(number, 8) for number in range(1, 9))
    assert len(Share.parse("any/8").shards(3, None)) == 3, "no more shards than batches"
    assert len(Share.parse("any/8").shards(100, 16)) == 16, "any goes on with the shards that were begun"


@pytest.mark.parametrize(
    "text",
    ["9/8", "0/8", "3", "3/", "/8", "3/0", "any", "some/8", "-1/8", "1.5/8", "3/8/2", "٣/8x", "", "１/3", "1/1000000", "any/any"],
)
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match=r"--shard is k/n with k from 1 to n"):
        Share.parse(text)


def test_more_shards_than_batches_and_another_division_are_refused():
    with pytest.raises(UsageError, match=r"--shard 3/3: .* there are 2 batches of images; take at most 2, or a smaller"):
        Share.parse("3/3").shards(2, None)
    with pytest.raises(UsageError, match=r"--shard 1/2: this evaluation was begun in 3 shards; go on with k/3"):
        Share.parse("1/2").shards(9, 3)
