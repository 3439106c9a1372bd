from .encoder import Encoder, EncoderModel, Preprocess, choose_device
from .encoders import (
    DEFAULT,
    build_encoder,
    encoder_tag,
    load_encoder,
    register_encoder,
)
from .interop import (
    LAYOUTS,
    ForeignBag,
    Known,
    export_features,
    import_features,
    read_width,
    um_to_level0,
)
from .sources import SlideSource, SlideTiles, StoreTiles, describe_features
from .store import (
    FeatureBag,
    FeatureMeta,
    find_features,
    read_attributes,
    read_features,
    verify_features,
    write_features,
)
from .stream import Begun, Encoded, encode_slides
from .weights import import_timm

__all__ = [
    "DEFAULT",
    "LAYOUTS",
    "Begun",
    "Encoded",
    "Encoder",
    "EncoderModel",
    "FeatureBag",
    "FeatureMeta",
    "ForeignBag",
    "Known",
    "Preprocess",
    "SlideSource",
    "SlideTiles",
    "StoreTiles",
    "build_encoder",
    "choose_device",
    "describe_features",
    "encode_slides",
    "encoder_tag",
    "export_features",
    "find_features",
    "import_features",
    "import_timm",
    "load_encoder",
    "read_attributes",
    "read_features",
    "read_width",
    "register_encoder",
    "um_to_level0",
    "verify_features",
    "write_features",
]
