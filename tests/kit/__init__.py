"""What the tests of several folders share: none of it is a test."""
