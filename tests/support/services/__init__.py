"""Services as a client meets them: processes, deployments, and parts of them in this process."""
