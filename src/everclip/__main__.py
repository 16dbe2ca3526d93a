"""`python -m everclip` is the command `everclip`."""

from everclip.cli import main

main()
