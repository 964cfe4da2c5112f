/* What the exec rows execute. */
int main(void)
{
	return 7;
}
