"""`python -m blindsum` is the `blindsum` command."""

from blindsum.pipelines.cli.app import main

if __name__ == "__main__":
    main()
