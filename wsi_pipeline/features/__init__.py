"""Features: encoders by name, batches that never let the device wait, and the stores on disk.

What is exported stands in ``__init__.pyi`` and is imported when it is first used: importing this
package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
