"""What answers become: depth maps, clouds, camera motion and 3D boxes."""
