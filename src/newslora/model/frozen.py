"""The frozen backbone that a saved adapter was trained on."""

from pathlib import Path

from transformers import PreTrainedModel

from newslora.errors import NewsloraError
from newslora.model import backbone
from newslora.model.about import About, read_about
from newslora.model.families import Family, family_of
from newslora.model.quantized import quantize
from newslora.model.seal import check_seal
from newslora.model.shorten import shorten


def read_sealed(folder: Path) -> About:
    """Return what an adapter folder says of itself, once its files are found whole.

    Raises:
        NewsloraError: A file is missing, damaged or strange to the folder.
    """
    check_seal(folder)
    return read_about(folder)


def load_frozen(folder: Path, about: About) -> tuple[PreTrainedModel, Family]:
    """Load the backbone that the adapter in ``folder`` was trained on.

    Raises:
        NewsloraError: The backbone is not the one that the adapter was trained on, or it is quantised and bitsandbytes
            is not installed.
    """
    identity = about.identity
    base, revision = str(identity.get("backbone")), identity.get("commit") or identity.get("revision")
    if backbone.identity(base, revision)["weights_sha256"] != identity.get("weights_sha256"):
        raise NewsloraError(f"{folder}: backbone {base!r} is not the one that the adapter was trained on; restore it")
    model, _ = backbone.load_backbone(base, revision, about.names, None)
    family = family_of(model.config, base)
    shorten(model, family, about.layers)
    quantize(model, family, about.quantization)
    return model, family
