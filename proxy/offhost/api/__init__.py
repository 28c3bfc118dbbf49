"""REST: what the daemon knows and can be told, over HTTP. The only home of aiohttp's server side.

Owns: paths, status codes, problem+json, and that no web page can act through an administrator's browser.
Does not own: what is done (jobs), what is known (catalog).
"""

from offhost.api.app import Served, application
from offhost.api.server import serving

__all__ = ["Served", "application", "serving"]
