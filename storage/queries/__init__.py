"""The SQL statements on jobs, images and the history, one plain function each.

Each function takes an open database. So the command line uses the same functions as the bot.
"""
