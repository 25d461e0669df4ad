"""The WSGI application that `script/server` serves."""

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "syncserver.settings")
application = get_wsgi_application()

# What is loaded by now lives as long as the process; looking through it again would stall a request for 30 ms.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 50)
