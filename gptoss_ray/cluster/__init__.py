"""Clusters that `ray up` makes: their files, whether a configuration fits them, how they start and end."""
