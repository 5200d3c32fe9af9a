"""Bags and data sets through the perception of the node, and compared with truth; without ROS."""
