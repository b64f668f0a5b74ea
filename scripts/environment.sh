# Sourced by the other scripts: makes .venv and installs the pinned project into it, once.
#   make_environment [EXTRAS]     EXTRAS such as [dev]; sets PYTHON
#   find_browser                  installs Chromium where it is missing and can be installed
# Python 3.11 to 3.13 is taken from $PYTHON_BIN, else from the PATH.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON_BIN:-}" python3.13 python3.12 python3.11 python3 python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: needs Python 3.11, 3.12 or 3.13 (set PYTHON_BIN to one); found none" >&2
  return 2
}

make_environment() {
  local extras=${1:-} python files stamp=.venv/installed
  # what is installed depends on these files and on nothing else; [dev] holds every other extra
  files=$(cat pyproject.toml constraints.txt | cksum)
  PYTHON=$PWD/.venv/bin/python
  if "$PYTHON" -m pip --version >/dev/null 2>&1 && [ -f "$stamp" ] &&
    grep -qxF -e "$files $extras" -e "$files [dev]" "$stamp"; then
    return
  fi
  python=$(find_python) || return
  echo "installing into .venv (about two minutes, once) ..." >&2
  "$PYTHON" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"
  echo "$files $extras" >"$stamp"
}

# The report's tests load it in Chromium. Where there is none and this is root on a Debian, it is
# installed; where that fails those tests skip and say why, so nothing here is an error.
find_browser() {
  if command -v chromium chromium-browser google-chrome >/dev/null; then return; fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
  echo "installing Chromium for the report's tests (half a minute, once) ..." >&2
  export DEBIAN_FRONTEND=noninteractive
  timeout 300 sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' \
    >/dev/null 2>&1 || echo "Chromium could not be installed: tests that need it skip" >&2
}
