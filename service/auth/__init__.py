"""Who may ask what, from where, and how much: keys, scopes, allowances, and the doors that browsers would leave open."""
