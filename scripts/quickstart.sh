#!/usr/bin/env bash
# From a fresh machine to a compute-optimal exponent: environment, real text, a small IsoFLOP study
# on the available device, fits, figures, report. Running it again continues where it stopped.
# Arguments are passed to the study, for example: bash scripts/quickstart.sh tracker=wandb
set -euo pipefail
source "$(dirname "$0")/environment.sh"
case " $* " in
  *" tracker=wandb"*) make_environment '[wandb]' ;;
  *) make_environment ;;
esac
"$PYTHON" -m train -m study=quickstart "$@"
"$PYTHON" -m analysis study=quickstart
