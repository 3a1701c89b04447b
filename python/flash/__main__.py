"""`python -m flash` is `flash-cli`."""

from flash import main

main()
