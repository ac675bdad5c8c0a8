"""Names of the data sets, for recipes, which are checked before anything is read."""

FOLDER = "folder"  # somebody's own clouds, in one folder a class
GENERATED = "generated"  # shapes that are made while they are learnt, from no files
LABELLED = "labelled"  # somebody's own scenes, with a class for every point
SCENE_KINDS = ("s3dis", "semantickitti", "nuscenes", "scannet", LABELLED)
