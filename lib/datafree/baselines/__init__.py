"""What the papers compare themselves with, a module a method. Baselines do not import papers."""
