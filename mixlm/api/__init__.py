"""The Python API of scripts and notebooks; `import mixlm` offers it."""
