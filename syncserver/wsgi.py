"""The WSGI application that `script/server` serves."""

import os

from django.core.wsgi import get_wsgi_application

from syncserver import collector

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "syncserver.settings")
application = get_wsgi_application()
collector.settle()
