"""Adapters to the tools that people train with; each is imported only when asked for."""
