"""The limits of Express workflows, which the emulator treats as Standard ones."""

# ruff: noqa: SLF001  ministack has no hooks, so its private functions are replaced

from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import stepfunctions

type Action = Callable[[dict[str, Any]], Any]


def is_express(state_machine_arn: str) -> bool:
    """Return whether a state machine is of type EXPRESS."""
    machine: Mapping[str, str] = stepfunctions._state_machines.get(state_machine_arn, {})
    return machine.get("type") == "EXPRESS"


def reject_for_express(action: Action) -> Action:
    """Make an API action reject Express workflows; their executions are only in their log.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html
    """

    def standard_action(data: dict[str, Any]) -> Any:  # noqa: ANN401  the emulator's
        execution = stepfunctions._executions.get(data.get("executionArn"), {})
        machine = data.get("stateMachineArn") or execution.get("stateMachineArn", "")
        if is_express(machine):
            message = "This operation is not supported by this type of state machine"
            return error_response_json("StateMachineTypeNotSupported", message, 400)
        return action(data)

    return standard_action


def reject_sync_start_of_express(start_sync: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``startExecution.sync`` reject Express workflows.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html
    """

    def start_standard(resource: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401  the emulator's
        if is_express(arguments["StateMachineArn"]):
            raise stepfunctions._ExecutionError(
                "StepFunctions.StateMachineTypeNotSupportedException", f"{resource} of an Express workflow"
            )
        return start_sync(resource, arguments)

    return start_standard


def omit_status_events_of_express(emit: Callable[[Mapping[str, Any]], None]) -> Callable[..., None]:
    """Send no status-change events for Express executions.

    https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    """
    return lambda execution: None if is_express(execution["stateMachineArn"]) else emit(execution)


def install() -> None:
    """Patch the emulator."""
    for name in ("_describe_execution", "_list_executions", "_get_execution_history", "_stop_execution"):
        setattr(stepfunctions, name, reject_for_express(getattr(stepfunctions, name)))
    stepfunctions._invoke_nested_start_execution_sync = reject_sync_start_of_express(
        stepfunctions._invoke_nested_start_execution_sync
    )
    stepfunctions._emit_execution_status_event = omit_status_events_of_express(
        stepfunctions._emit_execution_status_event
    )
