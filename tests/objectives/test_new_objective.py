"""A new objective is one Python file and one gin file, those of docs/extending.md: nothing of mixlm is edited."""

from support import from_outside
from support.markdown import titled
from support.places import ROOT

LAYERS = ("EncoderDecoder.num_encoder_layers=1", "EncoderDecoder.num_decoder_layers=1")
SIZES = ("EMB_DIM=16", 'TASK_FEATURE_LENGTHS={"inputs": 16}', *LAYERS)


def test_a_new_objective_is_one_python_file_and_one_gin_file(corpus, tmp_path):
    files = titled(ROOT / "docs" / "extending.md", "An objective")
    recipe = ("--gin_file=deshuffling.gin", "--gin_file=small.gin", *(f"--gin.{size}" for size in SIZES))
    prompt = ("--prompt=sells boat a farmer The", "--max_tokens=4")
    _, decoded = from_outside.run(tmp_path, corpus, files, ("train", *recipe), ("decode", *recipe, *prompt))
    found = from_outside.records(tmp_path)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert found[-1]["train/deshuffling"] < found[0]["train/deshuffling"]
    assert "validation/deshuffling" in found[-1]
    assert (tmp_path / "run" / "curves.png").exists()
    assert decoded[0] == f"{tmp_path / 'run'}, step 4: autoregressive decoding, temperature 0.0, encoded"
    assert decoded[2] == "prompt        sells boat a farmer The" and decoded[3].startswith("continuation  ")
