"""Pictures of the lifecycle: the generated diagrams, and traces of flows as sequence diagrams."""
