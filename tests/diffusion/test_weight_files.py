"""Files that diffusers would load in part, or not as they are meant: loaded right, or refused."""

import json
import shutil

import pytest
import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file, save_file

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings, Lora
from netdiff_ray.diffusion.adapter import LORA_FILE, read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.lora import load_adapter, load_for_drawing
from netdiff_ray.diffusion.prompts import embed_texts
from netdiff_ray.diffusion.source_checks import (
    check_base_files,
    check_lora_files,
    check_text_files,
)
from netdiff_ray.errors import ModelError

WEIGHTS = "diffusion_pytorch_model"
QKV = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")


def settings_of(directory, **chosen):
    return BaseSettings(base=str(directory), device="cpu", **chosen)


@pytest.fixture
def copy(toy_directory, tmp_path):
    """Return a copy of the toy base to change."""
    return shutil.copytree(toy_directory, tmp_path / "copy")


def as_variant(folder, name):
    """Rename the weights of a component to those of a variant."""
    (folder / f"{WEIGHTS}.safetensors").rename(folder / f"{WEIGHTS}.{name}.safetensors")


def in_original_names(model):
    """Return the weights of a transformer as Stability's files name them, the inverse of diffusers'
    convert_sd3_transformer_checkpoint_to_diffusers."""
    ours, theirs = dict(model.state_dict()), {}

    def swapped(name):
        return torch.cat(ours.pop(name).chunk(2)[::-1])

    blocks = len(model.transformer_blocks)
    for kind in ("weight", "bias"):
        theirs[f"final_layer.adaLN_modulation.1.{kind}"] = swapped(f"norm_out.linear.{kind}")
        theirs[f"final_layer.linear.{kind}"] = ours.pop(f"proj_out.{kind}")
        theirs[f"x_embedder.proj.{kind}"] = ours.pop(f"pos_embed.proj.{kind}")
        theirs[f"context_embedder.{kind}"] = ours.pop(f"context_embedder.{kind}")
        for first, layer in ((0, "linear_1"), (2, "linear_2")):
            embed = "time_text_embed"
            theirs[f"t_embedder.mlp.{first}.{kind}"] = ours.pop(
                f"{embed}.timestep_embedder.{layer}.{kind}"
            )
            theirs[f"y_embedder.mlp.{first}.{kind}"] = ours.pop(
                f"{embed}.text_embedder.{layer}.{kind}"
            )
        for i in range(blocks):
            block, joint, is_last = f"transformer_blocks.{i}", f"joint_blocks.{i}", i == blocks - 1
            for side, names in zip(("x_block", "context_block"), QKV, strict=True):
                parts = [ours.pop(f"{block}.attn.{name}.{kind}") for name in names]
                theirs[f"{joint}.{side}.attn.qkv.{kind}"] = torch.cat(parts)
            renamed = {
                "x_block.attn.proj": "attn.to_out.0",
                "x_block.adaLN_modulation.1": "norm1.linear",
                "x_block.mlp.fc1": "ff.net.0.proj", "x_block.mlp.fc2": "ff.net.2",
            }  # fmt: skip
            if is_last:
                theirs[f"{joint}.context_block.adaLN_modulation.1.{kind}"] = swapped(
                    f"{block}.norm1_context.linear.{kind}"
                )
            else:
                renamed |= {
                    "context_block.attn.proj": "attn.to_add_out",
                    "context_block.adaLN_modulation.1": "norm1_context.linear",
                    "context_block.mlp.fc1": "ff_context.net.0.proj",
                    "context_block.mlp.fc2": "ff_context.net.2",
                }
            for their, our in renamed.items():
                theirs[f"{joint}.{their}.{kind}"] = ours.pop(f"{block}.{our}.{kind}")
    for i in range(blocks):
        for side, names in (
            ("x_block", ("norm_q", "norm_k")),
            ("context_block", ("norm_added_q", "norm_added_k")),
        ):
            for their, our in zip(("ln_q", "ln_k"), names, strict=True):
                theirs[f"joint_blocks.{i}.{side}.attn.{their}.weight"] = ours.pop(
                    f"transformer_blocks.{i}.attn.{our}.weight"
                )
    theirs["pos_embed"] = ours.pop("pos_embed.pos_embed")
    assert not ours
    return {f"model.diffusion_model.{name}": w.contiguous() for name, w in theirs.items()}


@pytest.mark.parametrize("original", [True, False])
def test_a_single_file_gives_the_transformer_of_its_weights(toy_directory, tmp_path, original):
    config = SD3Transformer2DModel.load_config(toy_directory / "transformer")
    with torch.random.fork_rng():
        torch.manual_seed(9)
        model = SD3Transformer2DModel.from_config(config)
    file = tmp_path / "sd3.safetensors"
    save_file(in_original_names(model) if original else model.state_dict(), file)
    base = load_base(settings_of(toy_directory, transformer_file=str(file)))
    for name, weight in model.state_dict().items():
        assert torch.equal(base.transformer.state_dict()[name], weight), name
    plain = load_base(settings_of(toy_directory))
    assert base.digest != plain.digest
    assert not torch.equal(base.transformer.proj_out.weight, plain.transformer.proj_out.weight)


def test_a_single_file_that_is_cut_or_of_other_sizes_is_refused(toy_directory, tmp_path):
    weights = load_file(toy_directory / "transformer" / f"{WEIGHTS}.safetensors")
    file = tmp_path / "part.safetensors"
    save_file({k: w for k, w in weights.items() if "proj_out" not in k}, file)
    with pytest.raises(ModelError, match=r"cannot be loaded \(.*an SD3 transformer of the sizes"):
        load_base(settings_of(toy_directory, transformer_file=str(file)))
    weights["proj_out.weight"] = torch.zeros(3, 32)
    save_file(weights, file)
    with pytest.raises(ModelError, match="an SD3 transformer of the sizes"):
        load_base(settings_of(toy_directory, transformer_file=str(file)))


@pytest.mark.parametrize("suffix", ["safetensors", "gguf", "ckpt"])
def test_a_single_file_as_base_says_how_it_is_used(suffix):
    for refuse in (load_base, check_base_files):
        with pytest.raises(ModelError, match=r"is a single file.*as transformer_file"):
            refuse(settings_of(f"sd3_medium.{suffix}"))


def test_a_base_of_fp16_variants_is_loaded_and_known_by_its_weights(copy, base):
    as_variant(copy / "transformer", "fp16")
    loaded = load_base(settings_of(copy))
    assert torch.equal(loaded.transformer.proj_out.weight, base.transformer.proj_out.weight)
    file = copy / "transformer" / f"{WEIGHTS}.fp16.safetensors"
    weights = load_file(file)
    weights["proj_out.bias"] += 1
    save_file(weights, file, metadata={"format": "pt"})
    assert load_base(settings_of(copy)).digest != loaded.digest


def test_a_variant_is_taken_where_it_is_wanted(copy):
    folder = copy / "transformer"
    plain = load_file(folder / f"{WEIGHTS}.safetensors")
    changed = {**plain, "proj_out.bias": plain["proj_out.bias"] + 1}
    save_file(changed, folder / f"{WEIGHTS}.fp16.safetensors", metadata={"format": "pt"})
    for variant, weights in ((None, plain), ("fp16", changed), ("bf16", plain)):
        base = load_base(settings_of(copy, variant=variant))
        assert torch.equal(base.transformer.proj_out.bias, weights["proj_out.bias"])
    save_file(changed, folder / f"{WEIGHTS}.bf16.safetensors", metadata={"format": "pt"})
    (folder / f"{WEIGHTS}.safetensors").unlink()
    with pytest.raises(ModelError, match="variants bf16, fp16 only; set variant"):
        load_base(settings_of(copy))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"scaled_fp8": (2,)}, "fp8 weights that have to be multiplied with scales"),
        ({"proj_out.scale_weight": ()}, "such as proj_out.scale_weight"),
        ({"proj_out.weight_scale": ()}, "such as proj_out.weight_scale"),
        ({"proj_out.weight.absmax": (4,)}, "quantised .bitsandbytes"),
    ],
)
def test_weights_with_scales_are_refused(copy, tensors, words):
    file = copy / "transformer" / f"{WEIGHTS}.safetensors"
    weights = load_file(file) | {name: torch.ones(shape) for name, shape in tensors.items()}
    save_file(weights, file, metadata={"format": "pt"})
    for refuse in (load_base, check_base_files):
        with pytest.raises(ModelError, match=words):
            refuse(settings_of(copy))
        with pytest.raises(ModelError, match=words):
            refuse(settings_of(copy, transformer_file=str(file)))


def test_fp8_weights_without_scales_are_those_that_they_say(copy, base):
    file = copy / "transformer" / f"{WEIGHTS}.safetensors"
    weights = load_file(file)
    weights["proj_out.weight"] = weights["proj_out.weight"].to(torch.float8_e4m3fn)
    save_file(weights, file, metadata={"format": "pt"})
    loaded = load_base(settings_of(copy)).transformer.proj_out.weight
    assert torch.equal(loaded, weights["proj_out.weight"].float())
    assert not torch.equal(loaded, base.transformer.proj_out.weight)


def test_quantised_bases_are_refused(copy):
    path = copy / "transformer" / "config.json"
    config = json.loads(path.read_text())
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    path.write_text(json.dumps({**config, "quantization_config": nf4}))
    for refuse in (load_base, check_base_files):
        with pytest.raises(ModelError, match=r"transformer is quantised \(bitsandbytes, 4 bit\)"):
            refuse(settings_of(copy))
    path.write_text(json.dumps(config))
    folder = copy / "transformer"
    (folder / f"{WEIGHTS}.safetensors").rename(folder / "sd3-Q4_0.gguf")
    for refuse in (load_base, check_base_files):
        with pytest.raises(ModelError, match=r"GGUF, sd3-Q4_0\.gguf"):
            refuse(settings_of(copy))
    with pytest.raises(ModelError, match="GGUF"):
        check_base_files(settings_of(copy, transformer_file=str(folder / "sd3-Q4_0.gguf")))


def test_weights_that_lack_tensors_are_refused(copy):
    file = copy / "transformer" / f"{WEIGHTS}.safetensors"
    weights = load_file(file)
    del weights["proj_out.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing, such as proj_out\.weight"):
        load_base(settings_of(copy))


def test_a_t5_without_its_tokenizer_is_refused(copy):
    shutil.rmtree(copy / "tokenizer_3")
    base = load_base(settings_of(copy))
    with pytest.raises(ModelError, match=r"has text_encoder_3 and no tokenizer_3.*t5 to none"):
        embed_texts(base, ["x"])
    with pytest.raises(ModelError, match="no tokenizer_3"):
        check_text_files(settings_of(copy), with_t5=True)
    check_text_files(settings_of(copy), with_t5=False)


@pytest.fixture
def lora_file(adapter_directory, tmp_path):
    """Return a function that writes the toy adapter's LoRA under other names."""

    def write(rename):
        weights = load_file(adapter_directory / LORA_FILE)
        file = tmp_path / "lora.safetensors"
        save_file(dict(rename(name, weight) for name, weight in weights.items()), file)
        return Lora(source=str(file))

    return write


@pytest.mark.parametrize(
    ("begin", "words"),
    [("lora_unet_", "names of kohya's sd-scripts"), ("unet.", "no LoRA weights .* called unet")],
)
def test_a_lora_with_names_that_diffusers_does_not_read_is_refused(
    toy_directory, adapter_directory, lora_file, begin, words
):
    lora = lora_file(lambda name, weight: (name.replace("transformer.", begin, 1), weight))
    drawing = DrawSettings(loras=(lora,))
    with pytest.raises(ModelError, match=words):
        check_lora_files(drawing.loras)
    with pytest.raises(ModelError, match=words):
        load_for_drawing(read_adapter(adapter_directory), settings_of(toy_directory), drawing)


def test_a_dora_is_refused(lora_file):
    lora = lora_file(lambda name, weight: (name.replace("lora_A", "dora_scale"), weight))
    with pytest.raises(ModelError, match="is a DoRA"):
        check_lora_files([lora])


def test_a_lora_of_modules_that_the_base_lacks_is_refused(base, adapter_directory, lora_file):
    lora = lora_file(lambda name, weight: (name.replace("blocks.1.", "blocks.7."), weight))
    with pytest.raises(ModelError, match=r"it has no transformer_blocks\.7\.attn"):
        load_adapter(base, read_adapter(adapter_directory), [lora])
