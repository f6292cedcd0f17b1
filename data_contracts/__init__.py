"""What crosses a boundary: dataset layout, references, contracts, errors."""
