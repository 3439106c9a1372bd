"""Features: encoders by name, batches that never let the device wait, and the stores on disk.

Importing this package does not import torch; loading an encoder does.
"""

from wsi_pipeline.features.encoders import (
    DEFAULT,
    EncoderModel,
    Preprocess,
    build_encoder,
    encoder_tag,
    load_encoder,
    register_encoder,
)
from wsi_pipeline.features.interop import (
    LAYOUTS,
    ForeignBag,
    Known,
    export_features,
    import_features,
    um_to_level0,
)
from wsi_pipeline.features.store import (
    FeatureBag,
    FeatureMeta,
    find_features,
    read_attributes,
    read_features,
    verify_features,
    write_features,
)

__all__ = [
    "DEFAULT",
    "LAYOUTS",
    "EncoderModel",
    "FeatureBag",
    "FeatureMeta",
    "ForeignBag",
    "Known",
    "Preprocess",
    "build_encoder",
    "encoder_tag",
    "export_features",
    "find_features",
    "import_features",
    "load_encoder",
    "read_attributes",
    "read_features",
    "register_encoder",
    "um_to_level0",
    "verify_features",
    "write_features",
]
