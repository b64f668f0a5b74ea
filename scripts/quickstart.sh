#!/usr/bin/env bash
# A fresh machine to a compute-optimal exponent: environment, real text, a small IsoFLOP study on
# whatever device there is, fits, figures, report. Running it again reuses what is there.
# Words are passed on to the study, such as: bash scripts/quickstart.sh tracker=wandb
set -euo pipefail
source "$(dirname "$0")/environment.sh"
case " $* " in
  *" tracker=wandb"*) make_environment '[wandb]' ;;
  *) make_environment ;;
esac
"$PYTHON" -m train -m study=quickstart "$@"
"$PYTHON" -m analysis study=quickstart
