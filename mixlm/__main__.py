"""`python -m mixlm COMMAND` is `mixlm COMMAND`."""

from mixlm.cli.main import main

if __name__ == "__main__":
    main()
