#!/bin/sh
# Take out of a virtual environment what only serves to install, to test or to debug: docker/slim.sh VENV
set -eu
"$1/bin/pip" uninstall --quiet --yes pip
packages="$(echo "$1"/lib/python3*/site-packages)"
rm -rf "$packages/torch/test"
find "$packages/torch/bin" -type f -not -name torch_shm_manager -delete
find "$packages" -name '*.a' -delete
# astropy imports its own astropy.tests; no other package needs what it is tested with.
find "$packages" -type d -name tests -not -path '*/astropy/tests' -prune -exec rm -rf {} +
# Nine tenths of GalSim are what a debugger would read.
find "$packages/galsim" -name '_galsim*.so' -exec strip --strip-debug {} +
