"""3D perception for robots from a vision-language model (VLM³ on ROS 2)."""

from pkgutil import extend_path

# vlm3_ros.msg and vlm3_ros.srv are generated into the install space; when this source tree comes first on
# sys.path they must still be found there.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
