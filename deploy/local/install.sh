#!/bin/sh
# Installs Debian or Ubuntu packages without starting a service of theirs: the stack runs the programs
# itself, privately. Usage: install.sh PACKAGE...
set -eu

if ! command -v apt-get >/dev/null; then
    echo "Please install: $*" >&2
    echo "On macOS: brew install $* (RabbitMQ, Prometheus). Or set the URL of a server you have, such as RABBITMQ_URL." >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
    sudo="sudo"
    command -v sudo >/dev/null || { echo "Please run as root: apt-get install $*" >&2; exit 1; }
fi

# Debian asks policy-rc.d before a package starts its service; 101 means no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    trap '$sudo rm -f "$policy"' EXIT
fi
echo "installing system packages: $*"
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
