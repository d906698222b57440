"""`import blindsum`: jobs, runs and simulations as Python objects."""

import warnings

# Of a progress bar that Ray brings and nobody sees: notebooks would tell users to install widgets.
warnings.filterwarnings("ignore", "IProgress not found")
