"""The settings of config.py as ROS parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.validate_topic_name import validate_topic_name

from vlm3_ros import parameter_file
from vlm3_ros.config import Config, ConfigError, Setting, settings

# For every publisher and subscription: `qos_overrides.<topic>.publisher.reliability: best_effort`, and so on.
OVERRIDABLE = QoSOverridingOptions(
    (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
)


class Parameters:
    """Declares every setting, with its help and range, and keeps a Config in step with them.

    Settings that are not live are read-only: they come from the command line, a launch file or a YAML file.
    ``on_change`` is called with the new Config whenever a live one is set. Raises ConfigError for a wrong value.
    """

    def __init__(self, node: Node, on_change: Callable[[Config], None]):
        self._on_change = on_change
        values: dict[str, Any] = {}
        for setting in settings():
            try:
                parameter = node.declare_parameter(setting.name, setting.default, _descriptor(setting))
            except Exception as error:  # rclpy raises several types, the text of none says what is allowed
                raise ConfigError(f"parameter {setting.name}: {error} ({setting.help})") from error
            values[setting.name] = parameter.value
        self.config = Config().updated(values)
        for camera in filter(None, self.config.node.cameras):
            try:
                validate_topic_name(f"{camera}/image")
            except InvalidTopicNameException as error:
                raise ConfigError(f"node.cameras: {camera!r} cannot begin the name of a topic: {error}") from error
        # Not by automatically_declare_parameters_from_overrides: that raises on every list without entries.
        for text in parameter_file.unknown(node._parameter_overrides):
            node.get_logger().warning(f"{text}; it is ignored")
        node.add_on_set_parameters_callback(self._set)

    def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        known = {setting.name for setting in settings()}
        changed = {p.name: p.value for p in parameters if p.name in known}
        try:
            config = self.config.updated(changed)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if changed:
            self.config = config
            self._on_change(config)
        return SetParametersResult(successful=True)


def _descriptor(setting: Setting) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=setting.help, read_only=not setting.live)
    if setting.choices:
        descriptor.additional_constraints = "one of " + ", ".join(setting.choices)
    if setting.low is not None and setting.high is not None:
        if setting.kind is int:
            descriptor.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)]
        else:
            limits = FloatingPointRange(from_value=float(setting.low), to_value=float(setting.high), step=0.0)
            descriptor.floating_point_range = [limits]
    return descriptor
