"""A run on disk: what was asked, what is done, what failed, every score and every map; readable while the run goes on."""

from .folder import Store as Store
