"""What identifies an exported graph."""

from dataclasses import replace

from ccella.export.records import GraphRecord

RECORD = GraphRecord(
    graph="decoder",
    precision="fp32",
    files={"decoder.fp32.onnx": "a" * 64},
    weights={},
    axes={},
    inputs={},
    opset=20,
    tolerance=1e-4,
    max_error=1e-6,
    checks=[],
    versions={},
)


def test_the_digest_of_one_file_is_its_own():
    assert RECORD.digest == "a" * 64


def test_the_digest_of_two_files_depends_on_both():
    both = replace(RECORD, files={**RECORD.files, "decoder.fp32.onnx.data": "b" * 64})
    weights = replace(both, files={**RECORD.files, "decoder.fp32.onnx.data": "c" * 64})
    graph = replace(both, files={**both.files, "decoder.fp32.onnx": "c" * 64})
    assert len({RECORD.digest, both.digest, weights.digest, graph.digest}) == 4
    # The digest does not depend on how the record lists them, and is one that a file could have.
    assert replace(both, files=dict(reversed(both.files.items()))).digest == both.digest
    assert len(both.digest) == 64 and int(both.digest, 16)
