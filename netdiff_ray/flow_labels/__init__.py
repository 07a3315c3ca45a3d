"""Labels of flows as researchers have them: files read, set to the captures' clock, and joined.

formats    the columns of public datasets and tools, and the guessing of others
tables     label rows as arrays, and what could not be read of them
csv_rows   the rows of CSV files and Zeek logs, block by block
log_rows   the rows of Zeek's and Suricata's logs
pcapml     the labels in the comments of pcapML's captures
read       label files to one label table
times      times as text to nanoseconds, in every order and clock that they may be in
clock      the reading of the times that agrees with the captures
spans      the flows of captures: endpoints, start and end
keys       what flows and label rows are joined by
match      flows and label rows joined by endpoints and time
report     the counts of both sides
labelling  the labels of a capture's flows
"""
