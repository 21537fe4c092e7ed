"""What an Express state machine cannot do: the emulator treats it as a Standard one."""

from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import stepfunctions

type Action = Callable[[dict[str, Any]], Any]


def is_express(state_machine_arn: str) -> bool:
    """Tell whether a state machine's type is Express."""
    machine: Mapping[str, str] = stepfunctions._state_machines.get(state_machine_arn, {})  # noqa: SLF001
    return machine.get("type") == "EXPRESS"


def for_standard_alone(answer: Action) -> Action:
    """Refuse what Step Functions has of Standard executions alone: an Express one is in its log.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html
    """

    def answer_standard(data: dict[str, Any]) -> Any:  # noqa: ANN401  the emulator's
        execution = stepfunctions._executions.get(data.get("executionArn"), {})  # noqa: SLF001
        machine = data.get("stateMachineArn") or execution.get("stateMachineArn", "")
        if is_express(machine):
            message = "This operation is not supported by this type of state machine"
            return error_response_json("StateMachineTypeNotSupported", message, 400)
        return answer(data)

    return answer_standard


def waiting_for_standard_alone(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let no ``startExecution.sync`` wait for an Express workflow.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html
    """

    def run_standard(resource: str, given: Mapping[str, Any]) -> Any:  # noqa: ANN401  the emulator's
        if is_express(given["StateMachineArn"]):
            raise stepfunctions._ExecutionError(  # noqa: SLF001
                "StepFunctions.StateMachineTypeNotSupportedException", f"{resource} of an Express workflow"
            )
        return run(resource, given)

    return run_standard


def telling_of_standard_alone(tell: Callable[[Mapping[str, Any]], None]) -> Callable[..., None]:
    """Send no event of an Express execution's end.

    https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    """
    return lambda execution: None if is_express(execution["stateMachineArn"]) else tell(execution)


def install() -> None:
    """Put all of it in the emulator's place; there are no hooks for it."""
    for name in ("_describe_execution", "_list_executions", "_get_execution_history", "_stop_execution"):
        setattr(stepfunctions, name, for_standard_alone(getattr(stepfunctions, name)))
    stepfunctions._invoke_nested_start_execution_sync = waiting_for_standard_alone(  # noqa: SLF001
        stepfunctions._invoke_nested_start_execution_sync  # noqa: SLF001
    )
    stepfunctions._emit_execution_status_event = telling_of_standard_alone(  # noqa: SLF001
        stepfunctions._emit_execution_status_event  # noqa: SLF001
    )
