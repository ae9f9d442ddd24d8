"""Temporal's sandbox, in which tests run every workflow: whatever is not deterministic there is refused."""

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

# Modules that workflows import from outside the sandbox: pure values, built once instead of for each workflow.
_PASSED_THROUGH = ("schemas", "pydantic", "pydantic_core", "annotated_types", "typing_extensions")


def sandbox() -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*_PASSED_THROUGH))
