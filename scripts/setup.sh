# Sourced by the scripts beside it: sets `python` to an interpreter that has this project and its tools.
# An active virtual environment that has them already is used as it is; otherwise `.venv` is made in the checkout.
# PYTHON chooses the interpreter that makes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2
  exit 1
}

# $1: "run" for the project alone, "postgres" with what it needs there, "dev" with the tools for tests.
prepare() {
  local stamp=".venv/.prepared-$1" what='.[sqlite]'
  if [ "$1" = postgres ]; then what='.[sqlite,postgres]'; fi
  if [ ! -x .venv/bin/python ]; then
    echo "Making .venv …" >&2
    "$(find_python)" -m venv .venv
  fi
  if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "Installing durable_trio into .venv …" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e "$what"
    if [ "$1" = dev ]; then
      .venv/bin/python -m pip install --quiet --disable-pip-version-check --group dev
    fi
    touch "$stamp"
  fi
  python="$PWD/.venv/bin/python"
}
