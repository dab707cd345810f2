#!/bin/sh
# Brings this deployment to the state of /base; --help shows the options. The program itself is in /base, so it is
# the one of the bundle that is deployed.
cd "$(dirname "$0")" && exec sh ../base/update.sh "$@"
