"""What gunicorn serves: `gunicorn --config gateway/gunicorn_conf.py gateway.wsgi:application`."""

import os

from gateway.app import create_app
from shared.settings import GatewaySettings, load_or_exit

application = create_app(load_or_exit(GatewaySettings, os.environ))
