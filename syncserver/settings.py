"""Every setting of the server: its default, its unit and its reason. `syncserver.environment` reads the environment."""

import sys

from syncserver import environment as env
from syncserver import postgres

BASE_DIR = env.BASE_DIR
DATA_DIR = env.DATA_DIR  # SYNC_DATA_DIR: the secret key, the embedded database, the ERP of the demo
VERSION = "0.1.0"

# --- Django ---
DEBUG = env.flag("DEBUG", False)
SECRET_KEY = env.secret_key()
SECRET_KEY_FALLBACKS = env.words("SECRET_KEY_FALLBACKS")  # earlier keys: tokens made with them stay valid
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "unfold",  # before the admin, whose look it is
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "procrastinate.contrib.django",
    "sync",
    "devices",
    "entities",
    "legacy",
]
MIDDLEWARE = [
    "syncserver.http.RequestMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "syncserver.http.ApiMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "syncserver.urls"
WSGI_APPLICATION = "syncserver.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# --- The admin's look ---
UNFOLD = {
    "SITE_TITLE": "Syncserver",
    "SITE_HEADER": "Syncserver",
    "SITE_URL": None,  # there is no site behind it to view
    "SITE_ICON": "syncserver.navigation.icon",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "syncserver.navigation.icon"}],
    "DASHBOARD_CALLBACK": "legacy.pages.front_page.told",
    "STYLES": ["syncserver.navigation.stylesheet"],
    "SIDEBAR": {"navigation": "syncserver.navigation.sidebar"},
    "COLORS": {
        "primary": {  # the blue of the icon
            "50": "#eff5ff",
            "100": "#dbe8fe",
            "200": "#bfd7fe",
            "300": "#93bbfd",
            "400": "#6098fa",
            "500": "#3b78f2",
            "600": "#255be0",
            "700": "#1d48c4",
            "800": "#1e3d9f",
            "900": "#1e377d",
            "950": "#17234d",
        }
    },
}

# --- Database ---
# DATABASE_URL: any PostgreSQL 15+. Unset: the embedded one of this checkout, started when it does not run yet.
DATABASE_URL = env.text("DATABASE_URL")
DATABASES = {
    "default": env.database(DATABASE_URL or postgres.start(DATA_DIR / "postgres"))
    | {
        "CONN_MAX_AGE": env.integer("DATABASE_CONNECTION_AGE_SECONDS_MAX", 600),
        # A stalled query must not hold a worker for ever; no request of ours needs this long.
        "DISABLE_SERVER_SIDE_CURSORS": True,  # no session state: PgBouncer in transaction mode works
    }
}

# --- Transport security: on when the server is reached by HTTPS through a proxy ---
HTTPS = env.flag("HTTPS", False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = env.integer("HSTS_SECONDS", 3600) if HTTPS else 0
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS

# With HTTPS, whether other hosts of the domain have it too (W005, W021) is not ours to say. Without HTTPS=1 the server
# speaks plain HTTP on purpose: for development, or on a network of its own.
_SILENCED = ("W005", "W021") if HTTPS else ("W004", "W008", "W012", "W016")
SILENCED_SYSTEM_CHECKS = [f"security.{check}" for check in _SILENCED]

# --- Sync: limits (name and unit in the name) ---
SYNC_PULL_ROWS_DEFAULT = 2_000  # rows of a page when the device names no limit
SYNC_PULL_ROWS_MAX = 10_000  # rows of a page at most
SYNC_PULL_PAGE_BYTES_MAX = 4_000_000  # of JSON in a page; one row larger than that is a page of its own
SYNC_PULL_WAIT_SECONDS_MAX = 60  # a pull with nothing to tell is held that long at most, where the device asks for it
SYNC_PUSH_MUTATIONS_MAX = 1_000  # mutations of one call
SYNC_PUSH_BODY_BYTES_MAX = 8_000_000  # of a push after decompression: a compression bomb stops here
SYNC_PUSH_LOCK_SECONDS_MAX = 10  # a push that waits longer for another writer's row gets 503, and is sent again
SYNC_PUSH_ERRORS_MAX = (
    100  # told of one mutation: with half a million bad fields the answer would be ten times the body
)
SYNC_OPERATIONS_QUEUED_MAX = 20  # pushes that one device does not wait for; it waits for the next one
SYNC_OUTCOMES_ROWS_DEFAULT = 500  # outcomes of a page when the device names no limit
SYNC_OUTCOMES_ROWS_MAX = 1_000  # outcomes of a page at most
SYNC_ROWS_IDS_MAX = 1_000  # rows that one call of /sync/rows may ask for
SYNC_MISMATCH_REPORTS_MAX = 10  # of one device within a day: a broken one cannot fill the table
SYNC_STAFF_ROWS_DEFAULT = 100  # records of a page of the staff API where no limit is named
SYNC_STAFF_ROWS_MAX = 500  # records of such a page at most
SYNC_DECISIONS_MAX = 1_000  # conflicts decided, or decisions undone, at once: their devices' pushes wait that long
SYNC_COMMENT_CHARS_MAX = 2_000  # of what a person notes about a decision, which devices are told
SYNC_BODY_BYTES_MAX = 64_000  # of any other API request
SYNC_SCOPES_PER_DEVICE_MAX = 200  # granted to one device and its user; the pull token names each
SYNC_RESULT_AGE_DAYS_MAX = env.integer("SYNC_RESULT_AGE_DAYS_MAX", 30)  # a mutation's id is remembered that long
SYNC_HISTORY_AGE_DAYS_MAX = env.integer("SYNC_HISTORY_AGE_DAYS_MAX", 400)  # at least 30: the base of merges
SYNC_TOMBSTONE_AGE_DAYS_MAX = env.integer("SYNC_TOMBSTONE_AGE_DAYS_MAX", 90)  # older tokens get 410
SYNC_MISMATCH_AGE_DAYS_MAX = env.integer("SYNC_MISMATCH_AGE_DAYS_MAX", 90)  # reports of devices are kept that long
SYNC_PRUNE_ROWS_MAX = 5_000  # rows of one transaction of `sync_prune`: some tens of milliseconds
SYNC_WRITER_AGE_SECONDS_MAX = env.integer("SYNC_WRITER_AGE_SECONDS_MAX", 900)  # an older open writer fails /readyz
SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX = env.integer("SYNC_ENROLLMENT_CODE_AGE_HOURS_MAX", 72)
SYNC_ENROLLMENT_FAILURES_MAX = env.integer("SYNC_ENROLLMENT_FAILURES_MAX", 10)  # per address, in the window
SYNC_ENROLLMENT_FAILURES_WINDOW_SECONDS = 600
SYNC_LAST_SEEN_SECONDS = 60  # a device's "last seen" is written at most this often, so that an idle pull writes nothing
SYNC_TOKEN_GRACE_SECONDS = env.integer("SYNC_TOKEN_GRACE_SECONDS", 300)  # an old token, after the new one's first use
SYNC_DEVICE_UNUSED_DAYS_MAX = env.integer("SYNC_DEVICE_UNUSED_DAYS_MAX", 180)  # then a device is refused; 0: never
# What one device may ask for per hour and day (UTC); 0: no limit. Far above honest use, they stop one that runs away.
SYNC_DEVICE_REQUESTS_PER_HOUR_MAX = env.integer("SYNC_DEVICE_REQUESTS_PER_HOUR_MAX", 20_000)
SYNC_DEVICE_REQUESTS_PER_DAY_MAX = env.integer("SYNC_DEVICE_REQUESTS_PER_DAY_MAX", 100_000)
SYNC_DEVICE_CHANGES_PER_HOUR_MAX = env.integer("SYNC_DEVICE_CHANGES_PER_HOUR_MAX", 200_000)
SYNC_DEVICE_CHANGES_PER_DAY_MAX = env.integer("SYNC_DEVICE_CHANGES_PER_DAY_MAX", 500_000)
SYNC_REQUESTS_UNCOUNTED_MAX = 100  # of one device in one process, before they are added to those of the others
SYNC_PROXIES_COUNT = env.integer("SYNC_PROXIES_COUNT", 0)  # trusted proxies that append to X-Forwarded-For
SYNC_ADMIN_COUNT_SECONDS_MAX = 2  # a count that takes longer is left out of its page
SYNC_REPLAYS_MAX = 200  # refused changes that a person replays or discards at once; each is a transaction of its own
DATA_UPLOAD_MAX_NUMBER_FIELDS = SYNC_DECISIONS_MAX + 100  # of a form: each of the conflicts that are chosen is one

# --- Attention: after what time somebody should look (`sync/alerts/attention.py`) ---
# A day: what came in the evening may be decided the next morning.
SYNC_CONFLICT_AGE_HOURS_MAX = env.integer("SYNC_CONFLICT_AGE_HOURS_MAX", 24)  # an open conflict is late after that
SYNC_QUARANTINE_AGE_HOURS_MAX = env.integer("SYNC_QUARANTINE_AGE_HOURS_MAX", 24)  # and a mutation in quarantine
# A device pushes within seconds of being online, so one that calls with an outbox that old has a fault.
SYNC_DEVICE_PENDING_HOURS_MAX = env.integer("SYNC_DEVICE_PENDING_HOURS_MAX", 24)
# A week: a weekend or a short leave is no fault, and what is still in its outbox is not lost yet.
SYNC_DEVICE_SILENT_HOURS_MAX = env.integer("SYNC_DEVICE_SILENT_HOURS_MAX", 168)

# A dead letter that waits for a person, or fails again and again, for longer than that is late.
LEGACY_LETTER_AGE_HOURS_MAX = env.integer("LEGACY_LETTER_AGE_HOURS_MAX", 24)

# --- Alerts: who is told (`manage.py sync_alerts`), and who may scrape ---
SYNC_PUBLIC_URL = env.text("SYNC_PUBLIC_URL")  # how people reach the server; unset: alerts have no links
SYNC_ALERT_MAIL_TO = env.words("SYNC_ALERT_MAIL_TO")  # unset: no e-mail
SYNC_ALERT_WEBHOOK_URLS = env.words("SYNC_ALERT_WEBHOOK_URLS")  # unset: no webhooks
# All of them sign, so that receivers can be given a new one before the old one goes.
SYNC_ALERT_WEBHOOK_SECRETS = env.words("SYNC_ALERT_WEBHOOK_SECRETS")
# Plain HTTP is for a receiver on this very machine: what goes over a network must not be read or answered by others.
SYNC_ALERT_WEBHOOK_LOOPBACK = env.flag("SYNC_ALERT_WEBHOOK_LOOPBACK", False)
SYNC_ALERT_TIMEOUT_SECONDS = 10  # for each step of telling: one channel that hangs must not keep another waiting
SYNC_ALERT_AGE_DAYS_MAX = env.integer("SYNC_ALERT_AGE_DAYS_MAX", 90)  # alerts that are over are kept that long
SYNC_ALERT_SOURCES = [
    "legacy.attention"
]  # modules that know of more to alert of and to measure: sync/alerts/sources.py
SYNC_METRICS_TOKEN = env.text("SYNC_METRICS_TOKEN")  # unset: there is no /metrics
EMAIL_HOST = env.text("EMAIL_HOST", "localhost")
EMAIL_PORT = env.integer("EMAIL_PORT", 25)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD")
EMAIL_USE_TLS = env.flag("EMAIL_USE_TLS", False)  # STARTTLS, usually on port 587
EMAIL_USE_SSL = env.flag("EMAIL_USE_SSL", False)  # TLS from the first byte, usually on port 465
EMAIL_TIMEOUT = SYNC_ALERT_TIMEOUT_SECONDS
DEFAULT_FROM_EMAIL = env.text("EMAIL_FROM", "syncserver@localhost")

# --- The pre-existing system ---
LEGACY_SYSTEMS = env.words("LEGACY_SYSTEMS", "legacy.mappings.tryton")  # modules that declare SYSTEMS
LEGACY_URL = env.text("LEGACY_URL")
LEGACY_DATABASE = env.text("LEGACY_DATABASE")
LEGACY_USER = env.text("LEGACY_USER")
LEGACY_PASSWORD = env.text("LEGACY_PASSWORD")
# The safety stop (`legacy/safety.py`), each a share of the linked rows of a mapping, which may name its own.
LEGACY_STOP_CHANGED_SHARE_MAX = env.number("LEGACY_STOP_CHANGED_SHARE_MAX", 0.5)
LEGACY_STOP_DELETED_SHARE_MAX = env.number("LEGACY_STOP_DELETED_SHARE_MAX", 0.1)
LEGACY_STOP_FAILED_SHARE_MAX = env.number("LEGACY_STOP_FAILED_SHARE_MAX", 0.2)  # of the records of a run
LEGACY_STOP_RECORDS_MIN = 20  # so few are never too many
LEGACY_HOPS_MAX = 3  # a system that gives back something else that often, with nobody's change between, is a loop
# The circuit breaker: after so many runs in a row that did not reach a system, it is left alone for 1, 2, 4, … minutes.
LEGACY_FAILURES_MAX = 3
LEGACY_REST_MINUTES_MAX = 60
# Webhooks that come in (`legacy/webhooks/`). A secret is `<system>:<secret>`; a system may have several.
LEGACY_WEBHOOK_SECRETS = env.words("LEGACY_WEBHOOK_SECRETS")  # unset: nothing is believed
LEGACY_WEBHOOK_BODY_BYTES_MAX = env.integer("LEGACY_WEBHOOK_BODY_BYTES_MAX", 1_000_000)
# Between a signature and now, either way: what was recorded cannot be sent again later, and clocks differ.
LEGACY_WEBHOOK_TOLERANCE_SECONDS = env.integer("LEGACY_WEBHOOK_TOLERANCE_SECONDS", 300)
LEGACY_WEBHOOK_AGE_DAYS_MAX = env.integer("LEGACY_WEBHOOK_AGE_DAYS_MAX", 30)  # one sent again is known that long

# Webhooks that go out. Unless set, receivers are public and have HTTPS: a subscription must not reach inside.
LEGACY_SUBSCRIPTION_PRIVATE = env.flag("LEGACY_SUBSCRIPTION_PRIVATE", False)
DATA_UPLOAD_MAX_MEMORY_SIZE = max(SYNC_PUSH_BODY_BYTES_MAX, LEGACY_WEBHOOK_BODY_BYTES_MAX)
# What encrypts addresses of branches and secrets of subscriptions; unset: a key made from SECRET_KEY.
LEGACY_SECRET_KEY = env.text("LEGACY_SECRET_KEY")
LEGACY_SECRET_KEY_FALLBACKS = env.words("LEGACY_SECRET_KEY_FALLBACKS")  # earlier ones: what they encrypted is readable
# Runs at once: each is a process with two database connections, and mostly waits for the other side.
LEGACY_PARALLEL = env.integer("LEGACY_PARALLEL", 4)
LEGACY_TIMEOUT_SECONDS = env.integer("LEGACY_TIMEOUT_SECONDS", 600)  # a run beside others is cut off after that
LEGACY_TEST_SECONDS_MAX = 15  # that an administrator waits for a test of a connection
LEGACY_RUN_AGE_DAYS_MAX = env.integer("LEGACY_RUN_AGE_DAYS_MAX", 30)  # runs are kept that long, and can be undone

# --- The worker (`manage.py worker`) ---
PROCRASTINATE_AUTODISCOVER_MODULE_NAME = ""  # jobs are where the next line says
PROCRASTINATE_IMPORT_PATHS = ["legacy.worker"]
WORKER_DEAD_SECONDS = env.integer("WORKER_DEAD_SECONDS", 30)  # without a sign of life: others take up its jobs
WORKER_STOP_SECONDS = env.integer("WORKER_STOP_SECONDS", 30)  # that its jobs may go on when it is told to stop
LEGACY_DECISIONS_MAX = 200  # dead letters that one person has tried again or discards at once: a slip stays small

# --- API ---
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["devices.authentication.DeviceAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "syncserver.http.problem_response",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,  # `format` is a parameter of ours
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Syncserver",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.1",  # whose schemas are those that msgspec writes
    "DESCRIPTION": "The offline-first sync protocol, version 1. `docs/protocol.md` gives its promises.",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_PUBLIC": True,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "sync.openapi_schemas.add_components",
        "sync.staff.openapi.add_components",
    ],
}

# --- Logs: one JSON object a line ---
LOG_LEVEL = env.text("LOG_LEVEL", "INFO").upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "syncserver.logs.json_formatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        "procrastinate": {"level": "WARNING"},  # it tells of each job, one a minute at least, what the run's line tells
        "django.request": {"level": "ERROR"},  # a refused request has its access line already
        "django.security.DisallowedHost": {"level": "CRITICAL"},  # anybody may send any; the access line has it
        "psycopg": {"level": "ERROR"},  # it warns of each statement whose error we handle, as with a batch sent again
    },
}
