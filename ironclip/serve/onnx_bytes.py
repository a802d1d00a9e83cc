"""What an .onnx file holds, read from its bytes before a runtime sees them: an exported model is one graph of standard operators.

The format is protocol buffers (https://protobuf.dev/programming-guides/encoding/); the numbers of the fields are of onnx.proto.
"""

from collections.abc import Iterator

MODEL_GRAPH, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 14, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_SPARSE = (22, 23)
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
STANDARD = (b"", b"ai.onnx")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class NotOnnx(ValueError):
    """Bytes that are no such message, or a model that is more than one graph of standard operators; the text says which."""


def metadata(content: bytes) -> dict[str, str]:
    """The texts that travel with the model, by key; nothing of the graph is looked at."""
    found = {}
    for number, entry in _fields(memoryview(content)):
        if number == MODEL_METADATA:
            parts = {key: bytes(value) for key, value in _fields(_message(entry)) if isinstance(value, memoryview)}
            found[parts.get(1, b"").decode()] = parts.get(2, b"").decode()
    return found


def check(content: bytes) -> None:
    """Nothing, where the model is one graph of standard operators whose tensors lie in the file itself.

    Raises:
        NotOnnx: operators of another domain (custom code), functions, graphs inside operators (loops), tensors in other files.
    """
    graphs = 0
    for number, value in _fields(memoryview(content)):
        if number in (MODEL_TRAINING, MODEL_FUNCTIONS):
            raise NotOnnx("it holds functions of its own")
        if number == MODEL_GRAPH:
            graphs += 1
            _check_graph(_message(value))
    if graphs != 1:
        raise NotOnnx("it holds no graph")


def _check_graph(graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == GRAPH_NODE:
            _check_node(_message(value))
        elif number == GRAPH_INITIALIZER:
            _check_tensor(_message(value))
        elif number == GRAPH_SPARSE:
            raise NotOnnx("it holds sparse tensors")


def _check_node(node: memoryview) -> None:
    operator, domain = b"?", b""
    for number, value in _fields(node):
        if number == NODE_OPERATOR:
            operator = bytes(_message(value))
        elif number == NODE_DOMAIN:
            domain = bytes(_message(value))
        elif number == NODE_ATTRIBUTE:
            for inner, part in _fields(_message(value)):
                if inner in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                    raise NotOnnx("an operator of it holds a graph of its own")
                if inner in ATTRIBUTE_SPARSE:
                    raise NotOnnx("it holds sparse tensors")
                if inner in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
                    _check_tensor(_message(part))
    if domain not in STANDARD:
        raise NotOnnx(f"its operator {_shown(operator)} is of {_shown(domain)} and no standard one")


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value != 0):
            raise NotOnnx("tensors of it lie in other files")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field: an int for numbers, the bytes for everything else."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if tag >= 1 << 32:  # other readers cut it to 32 bits, and would see another field than we do
            raise NotOnnx("its bytes are no model")
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(kind)
        if kind == BYTES:
            size, place = _varint(message, place)
        if size is None or place + size > len(message):
            raise NotOnnx("its bytes are cut or are no model")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise NotOnnx("its bytes are cut or are no model")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise NotOnnx("its bytes are no model")
    return value


def _shown(name: bytes) -> str:
    return ascii(name[:40].decode(errors="replace"))
