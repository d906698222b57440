"""`python -m blindsum` is the `blindsum` command."""

from blindsum.pipelines.cli import main

if __name__ == "__main__":
    main()
