"""Logistic and linear regression by Newton steps on the silos' sums, with standard errors."""
