"""Image→text and text→image retrieval, clean and under attack.

``captions`` and ``sources`` open sets of captioned images, ``ranks`` says what is found where, ``attack`` climbs a
loss over the captions, ``records`` is what is measured, ``evaluate`` runs it into a folder, ``summary`` and ``words``
turn records into recalls with intervals and into text.
"""
