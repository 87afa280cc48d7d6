"""``python -m assay.cli``, for launchers that start modules (``torchrun -m``)."""

from assay.cli.app import main

if __name__ == "__main__":
    main()
