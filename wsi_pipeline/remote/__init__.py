"""Files that are elsewhere: fetched over HTTP, resumable, verified, and fair to the server.

What is exported stands in ``__init__.pyi`` and is imported when it is first used: who lists
a bucket waits for no downloader.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
