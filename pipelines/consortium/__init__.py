"""What the operator of a coordinator and the owners of silos run, in separate clusters."""
