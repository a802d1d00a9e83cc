"""Tests of the tests: deliberate errors that they must notice."""
