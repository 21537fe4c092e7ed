"""The limits of Express workflows, which the emulator treats as Standard ones."""

# ruff: noqa: ANN401, SLF001  ministack has no types, and no hooks but its private functions

from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import stepfunctions

from local.patches import patch


@patch(stepfunctions, "_describe_execution", "_list_executions", "_get_execution_history", "_stop_execution")
def reject_for_express(action: Callable[..., Any], data: Mapping[str, Any]) -> Any:
    """Reject Express workflows, whose executions are only in their log.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html
    """
    execution = stepfunctions._executions.get(data.get("executionArn"), {})
    if _is_express(data.get("stateMachineArn") or execution.get("stateMachineArn", "")):
        message = "This operation is not supported by this type of state machine"
        return error_response_json("StateMachineTypeNotSupported", message, 400)
    return action(data)


@patch(stepfunctions, "_invoke_nested_start_execution_sync")
def reject_sync_start_of_express(
    start_sync: Callable[..., Any], resource: str, arguments: Mapping[str, Any]
) -> Any:
    """Reject Express workflows in ``startExecution.sync``.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html
    """
    if _is_express(arguments["StateMachineArn"]):
        raise stepfunctions._ExecutionError(
            "StepFunctions.StateMachineTypeNotSupportedException", f"{resource} of an Express workflow"
        )
    return start_sync(resource, arguments)


@patch(stepfunctions, "_emit_execution_status_event")
def omit_status_events_of_express(emit: Callable[..., None], execution: Mapping[str, Any]) -> None:
    """Send no status-change events for Express executions.

    https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    """
    if not _is_express(execution["stateMachineArn"]):
        emit(execution)


def _is_express(state_machine_arn: str) -> bool:
    return bool(stepfunctions._state_machines.get(state_machine_arn, {}).get("type") == "EXPRESS")
